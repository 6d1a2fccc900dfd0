// Package reconcile holds journals and logs against each other: every entry of a log under our issuing keys has an intent in
// some journal, every promise of a log is kept, no serial number stands twice, and every signature is counted.
//
// An entry that nobody intended means that the CA's key is used elsewhere. It MUST be reported, whatever else is wrong.
package reconcile
