package tlog

// Format is the version of the list of shards that this package reads and writes.
const Format = stateVersion
