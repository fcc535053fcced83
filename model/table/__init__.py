"""A person's table before any model: reads it, says what each column is, and makes of it what learners see."""
