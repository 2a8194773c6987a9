"""Which version is champion, and why: the gate, promotion, rollback, history."""
