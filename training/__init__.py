"""How the embedded demo chat model was made: data, tokeniser, training, export and evaluation."""
