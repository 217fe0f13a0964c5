"""The built-in handlers, one file each. The page "Contributing" lists the steps to add one."""
