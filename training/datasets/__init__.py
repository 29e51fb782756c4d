"""From a customer's files to a frozen dataset. Knows nothing of Django, torch, or who asks."""
