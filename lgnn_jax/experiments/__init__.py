"""Many runs of one question, and what they say together."""
