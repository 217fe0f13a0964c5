"""The command that `e3-event run` starts, and the signals that reach this process.

============= ========================================================================
module        holds
============= ========================================================================
`child`       `ChildProcess`: run a command; `ExitResult`: how it ended
`output`      `Output`: show a command's output, copy it to a log, and keep its end
`tail`        `Ring`, `FileEnd`: the last bytes of an output; `last_lines`: as text for people
`junit`       `summary`: what a command's JUnit reports say
`signals`     `Signals`: pass signals on to a command; `above_standard`: move a descriptor
`signal_flag` `SignalFlag`: a flag that a signal handler may set
`shutdown`    `GracefulShutdown`: end a long-running command on SIGINT and SIGTERM
`ci`          `build`: what the CI system says about the build
============= ========================================================================
"""
