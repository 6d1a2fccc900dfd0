package reconcile

// rules says what follows from each kind.
var rules = map[Kind]rule{
	UnintendedEntry: {Critical, "the CA's key signed this outside of this CA, or a journal is missing: stop issuing, find out who can use the key, " +
		"and replace it; if another instance signs with this key, give its journal too", false},
	CertificateWithoutOutcome: {Critical, "the CA's key signed this certificate outside of this CA, or the journal lost a record: as for unintended_entry", false},
	OutcomeWithoutIntent: {Critical, "records were removed from the journal or added to it: keep a copy of all its files, and compare it with " +
		"where its records are forwarded to", false},
	SignaturesUncounted: {Critical, "the CA's key made signatures that no record explains: as for unintended_entry, beginning with the process of that journal", false},
	SerialReused: {Critical, "two certificates share a serial number: look whether a machine was cloned or restored with its state, and whether " +
		"one of the two is a forgery", false},
	JournalBroken: {Critical, "the journal was changed, cut or damaged: keep a copy of all its files, run mayfly audit verify, and look who could write there", false},
	MissingEntry: {Serious, "the log promised to publish this entry and did not: keep its answer, tell its operator, use another log; " +
		"mayfly audit clear when it is mended", true},
	EntryMismatch: {Serious, "the log published something else than it promised: keep its answer, tell its operator, use another log", true},
	LogForked:     {Serious, "the log showed two histories: keep both heads, tell its operator and everybody who relies on it, use another log", true},
	LogShrunk: {Serious, "the log lost entries: it was restored from a backup, or it forked; tell its operator, use another log; an embedded log: " +
		"restore its newest state or begin a new one", true},
	LogMismatch: {Serious, "the log's storage was changed or damaged: compare it with a copy; an embedded log: stop the CA before you restore it", true},
	LogHeadInvalid: {Serious, "someone else answers for the log, or its key or origin is configured wrongly: compare public_key and origin with what " +
		"its operator publishes", false},
}
