"""The skeleton `wgmma` (sm_90a): a producer copies tiles with the copy engine, consumers compute with matrix instructions of four warps."""
