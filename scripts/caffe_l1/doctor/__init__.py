"""What works here: the doctor looks at a machine and says which routes it can go."""
