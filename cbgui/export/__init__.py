"""From an adapter to a merged model that any program loads: merge, verify, describe and upload it."""
