"""What one model is: its replica, its engine, its protocols. Knows nothing of routing between models."""
