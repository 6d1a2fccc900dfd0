package reconcile

// rules says what follows from each kind.
var rules = map[Kind]rule{
	UnintendedEntry: {
		severity: Critical,
		action: "the CA's key signed this outside of this CA, or a journal is missing: stop issuing, " +
			"find out who can use the key, and replace it; if another instance signs with this key, give its journal too",
	},
	CABelowOurs: {
		severity: Critical,
		action: "the CA's key made another CA, whose certificates verify like ours: as for unintended_entry; " +
			"no setting of mayfly does this, so that no journal explains it",
	},
	UnknownCACertificate: {
		severity: Serious, bounded: true,
		action: "there is a CA certificate for our key that the configuration does not name: " +
			"if it is an older or a cross certificate of yours, add its chain to ca.trust; if not, find out " +
			"which CA made it and why",
	},
	CertificateWithoutOutcome: {
		severity: Critical,
		action: "the CA's key signed this certificate outside of this CA, or the journal lost a " +
			"record: as for unintended_entry",
	},
	OutcomeWithoutIntent: {
		severity: Critical,
		action: "records were removed from the journal or added to it: keep a copy of all its files, " +
			"and compare it with where its records are forwarded to",
	},
	SignaturesUncounted: {
		severity: Critical,
		action: "the CA's key made signatures that no record explains: as for unintended_entry, beginning " +
			"with the process of that journal",
	},
	SerialReused: {
		severity: Critical,
		action: "two certificates share a serial number: look whether a machine was cloned or restored with its " +
			"state, and whether one of the two is a forgery",
	},
	JournalBroken: {
		severity: Critical, bounded: true,
		action: "the journal was changed, cut or damaged: keep a copy of all its files, run " +
			"mayfly audit verify, and look who could write there",
	},
	MissingEntry: {
		severity: Serious, breaks: true, bounded: true,
		action: "the log promised to publish this entry and did not: keep its answer, " +
			"tell its operator, use another log; mayfly audit clear when it is mended",
	},
	EntryMismatch: {
		severity: Serious, breaks: true, bounded: true,
		action: "the log published something else than it promised: keep its answer, " +
			"tell its operator, use another log",
	},
	LogForked: {
		severity: Serious, breaks: true,
		action: "the log showed two histories: keep both heads, tell its operator and everybody who " +
			"relies on it, use another log",
	},
	LogShrunk: {
		severity: Serious, breaks: true,
		action: "the log lost entries: it was restored from a backup, or it forked; tell its operator, " +
			"use another log; an embedded log: restore its newest state or begin a new one",
	},
	LogMismatch: {
		severity: Serious, breaks: true,
		action: "the log's storage was changed or damaged: compare it with a copy; an embedded log: " +
			"stop the CA before you restore it",
	},
	LogHeadInvalid: {
		severity: Serious,
		action: "someone else answers for the log, or its key or origin is configured wrongly: compare public_key " +
			"and origin with what its operator publishes",
	},
}
