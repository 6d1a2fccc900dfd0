package reconcile

// Format is the version of the saved state of the auditor that this package reads and writes.
const Format = stateVersion
