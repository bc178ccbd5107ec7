"""Hadoop spoken natively: RPC, tokens, addresses. Knows Hadoop and nothing of TARN."""
