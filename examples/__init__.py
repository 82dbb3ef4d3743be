"""What can be made with the package, beside it."""
