package uses

// Format is the version of the file of token uses that this package reads and writes.
const Format = fileVersion
