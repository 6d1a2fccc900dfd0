package reconcile

// kindTable says what follows from each kind.
var kindTable = map[Kind]kindInfo{
	UnintendedEntry: {
		severity: Critical,
		action: "treat the issuing key as compromised unless a journal is missing: stop issuing, find out " +
			"who can use the key, " +
			"and replace it; if another instance signs with this key, add its journal",
	},
	SubordinateCA: {
		severity: Critical,
		action: "the issuing key certified another CA, whose certificates verify wherever those of this " +
			"CA do: proceed as for " +
			"unintended_entry; mayfly never signs a CA certificate, so no journal can explain it",
	},
	UnknownCACertificate: {
		severity: Serious, bounded: true,
		action: "the configuration does not name this CA certificate for the issuing key: if it is an " +
			"older certificate or a " +
			"cross-certificate of this CA, add its chain to ca.trust; otherwise find out which CA issued it and why",
	},
	CertificateWithoutOutcome: {
		severity: Critical,
		action: "the issuing key signed this certificate outside of the CA, or the journal lost a record: " +
			"proceed as for unintended_entry",
	},
	OutcomeWithoutIntent: {
		severity: Critical,
		action: "records were removed from the journal or added to it: copy all of its files, and " +
			"compare them with the copy " +
			"that the records were forwarded to",
	},
	SignaturesUncounted: {
		severity: Critical,
		action: "the number of signatures differs from what the records explain: proceed as for " +
			"unintended_entry, starting " +
			"with the machine that writes this journal",
	},
	SerialReused: {
		severity: Critical,
		action: "two certificates have the same serial number: check whether a machine was cloned or " +
			"restored together with " +
			"its memory, and whether one of the two certificates is forged",
	},
	JournalBroken: {
		severity: Critical, bounded: true,
		action: "the journal was changed, truncated or damaged: copy all of its files, run mayfly audit " +
			"verify, and find out " +
			"who can write to it",
	},
	MissingEntry: {
		severity: Serious, logViolation: true, bounded: true,
		action: "the log gave an SCT and did not publish the entry: keep its response, notify its " +
			"operator, and use another " +
			"log; run mayfly audit clear when it is repaired",
	},
	EntryMismatch: {
		severity: Serious, logViolation: true, bounded: true,
		action: "the log published an entry that differs from its SCT: keep its response, notify its operator, and " +
			"use " +
			"another log",
	},
	LogForked: {
		severity: Serious, logViolation: true,
		action: "the log showed two histories: keep both heads, notify its operator and everyone who " +
			"relies on it, and use " +
			"another log",
	},
	LogShrunk: {
		severity: Serious, logViolation: true,
		action: "the log lost entries because it was restored from a backup, or it forked: notify " +
			"its operator, and use " +
			"another log; for an embedded log, restore its newest state or start a new log",
	},
	LogMismatch: {
		severity: Serious, logViolation: true,
		action: "the log's storage was changed or damaged: compare it with a copy; for an embedded " +
			"log, stop the CA before " +
			"you restore it",
	},
	LogHeadInvalid: {
		severity: Serious,
		action: "another server answers for the log, or its key or origin is misconfigured: compare " +
			"public_key and origin " +
			"with what its operator publishes",
	},
}
