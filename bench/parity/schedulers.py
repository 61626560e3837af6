def make(goldens): pass
