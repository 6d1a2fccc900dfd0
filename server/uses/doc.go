// Package uses counts how often tokens were used for certificates.
//
// A [Use] goes in: a hash that identifies the token, the highest number of certificates that it may get, and its times.
// [Local.Spend] returns nil if the use was counted, or an error that says why the token gets no certificate. Of any
// number of concurrent uses of one token, at most Use.Most MUST be counted, and a count MUST NOT be forgotten while the
// token is valid: not when there is no memory for further tokens, not after a step of the clock, and, with a file, not
// after a crash of the process or the machine. What cannot be counted is refused, unless the use says otherwise.
//
// Uses are known only from the time at which counting began. A token that was issued before that time is therefore
// refused, unless the use says otherwise.
package uses
