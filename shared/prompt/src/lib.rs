//! Prompts: tokenizer, chat templates, image-token expansion, incremental detokenizer, stop strings.
