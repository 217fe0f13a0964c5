# `sleep` simulates the work.
e3-event run fetch -- sleep 0.8

# Compile the parts at the same time.
e3-event run compile -- sh -c '
    e3-event run core -- sleep 1.6 &
    e3-event run gui -- sleep 2.4 &
    e3-event run docs -- sleep 1.1 &
    wait'

# Send the report even if the tests fail.
failed=0
e3-event run tests -- python tests.py || failed=1
e3-event run report -- sleep 0.5
exit $failed
