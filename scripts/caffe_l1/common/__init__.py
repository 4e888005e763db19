"""The ground floor: what every room uses. Nothing here imports from another room."""
