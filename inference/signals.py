"""What layers above may listen to. Receivers run inside the transaction that ends the generation."""

from django.dispatch import Signal

# Sent with `generation` (already in its final state). A receiver that must act on other systems does so on commit.
generation_ended = Signal()
