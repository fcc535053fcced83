"""What is recorded beside the reply. Never delays it."""
