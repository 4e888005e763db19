"""What the demos are made of: data, nets, training and pictures."""
