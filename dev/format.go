package dev

// Format is the version of the state directory that this package reads and writes.
const Format = stateVersion
