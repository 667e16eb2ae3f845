"""What a model is to cbgui: found, loaded in part or whole, adapted, fed with batches."""
