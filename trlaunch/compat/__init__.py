"""Other launchers' interfaces over trlaunch: a script of theirs runs after one changed import."""
