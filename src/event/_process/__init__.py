"""The command that `e3-event run` starts, and the signals that reach this process.

========== ===============================================================================
module     contents
========== ===============================================================================
`child`    `ChildProcess`: run a command; `ExitResult`: how it ended
`output`   `Tee`: show a command's output, copy it to a log, and keep its end
`tail`     `Ring`, `FileEnd`: the last bytes of an output; `last_lines`: as readable text
`junit`    `summary_in_time`: the results in a command's JUnit reports
`signals`  `Signals`: pass signals on to a command; `above_standard`: move a descriptor
`shutdown` `GracefulShutdown`: end a long-running command on SIGINT and SIGTERM; `SignalFlag`
`ci`       `build`: the CI system's data about the build
========== ===============================================================================
"""
