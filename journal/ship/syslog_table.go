package journal

// facilities are the codes of RFC 5424 table 1, under the names of syslog.conf.
var facilities = map[string]int{
	"kern": 0, "user": 1, "mail": 2, "daemon": 3, "auth": 4, "syslog": 5, "lpr": 6, "news": 7, "uucp": 8, "cron": 9, "authpriv": 10, "ftp": 11,
	"local0": 16, "local1": 17, "local2": 18, "local3": 19, "local4": 20, "local5": 21, "local6": 22, "local7": 23,
}

// The severities of RFC 5424 table 2 that are used.
const (
	severityAlert   = 1
	severityWarning = 4
	severityNotice  = 5
)

// severity is how urgent a record is.
func (r *Record) severity() int {
	switch r.Kind {
	case Alarm:
		return severityAlert
	case Recovered, Dropped:
		return severityWarning
	case Outcome:
		if r.Result == Failed {
			return severityWarning
		}
	case Start, Stop, Reload, Trial, Intent, Event:
	}
	return severityNotice
}
