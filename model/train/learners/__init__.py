"""What fits a model: one file a learner."""
