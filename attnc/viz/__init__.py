"""Pictures of attention: weights as heat maps (needs matplotlib, the extra `attnc[viz]`) and as text."""
