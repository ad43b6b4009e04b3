"""Bits of the coded sections: an adaptive binary arithmetic coder whose models are mixed."""
