"""The scripts that make the demo vision model: pictures, questions, training, scores."""
