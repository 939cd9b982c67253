"""Language models behind one protocol: llama.cpp, transformers, and a tiny exact pair."""
