"""The paper's figures and tables beside ours: published numbers with their sources, and what records say."""
