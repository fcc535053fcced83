"""Predictions of messages: from a queue, or as an AWS Lambda function. Each message is answered at least once."""
