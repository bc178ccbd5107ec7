"""What stands under each path, a file for each kind: the list, orders, logs, what is observed, pages."""
