package main

import (
	"strconv"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
	"github.com/mayfly-ca/mayfly/internal/human"
)

const (
	defaultCallers  = "1,4,16,64,256"
	capacityCallers = 64
	capacityStep    = 3 * time.Second // at most
)

// benchLoad is the load of a step: a number of callers, or a number of arrivals per second.
type benchLoad struct {
	Callers int     `json:"callers,omitempty"`
	Rate    float64 `json:"rate_per_second,omitempty"`
	Percent float64 `json:"percent_of_capacity,omitempty"` // if --rate has a percentage
}

// String returns the load for people.
func (l benchLoad) String() string {
	switch {
	case l.Callers > 0:
		return human.Count(l.Callers, "caller")
	case l.Percent > 0:
		return strconv.FormatFloat(l.Rate, 'f', 0, 64) + "/s, " + strconv.FormatFloat(l.Percent, 'f', -1, 64) + "%"
	}
	return strconv.FormatFloat(l.Rate, 'f', -1, 64) + "/s"
}

// makePlan sets plan and servers from the flags. processors is the number of processors of this machine.
func (f *benchFlags) makePlan(processors int) error {
	f.servers = []int{0}
	callers := defaultCallers
	if f.processors != "" {
		callers = strconv.Itoa(capacityCallers)
		var bad bool
		if f.servers, bad = numbers(f.processors, processors); bad {
			return cli.Usage("--processors %q: this machine has %d; write numbers from 1 to %d, separated by commas",
				f.processors, processors, processors)
		}
	}
	switch {
	case f.rate != "" && f.callers != "":
		return cli.Usage("--callers sets a closed loop and --rate an open loop; write one of them")
	case f.rate != "" && f.processors != "":
		return cli.Usage("--processors measures a closed loop; write --callers instead of --rate, or neither")
	case f.rate != "":
		return f.planRates()
	case f.callers != "":
		callers = f.callers
	}
	list, bad := numbers(callers, maxBenchCallers)
	if bad {
		return cli.Usage("--callers %q: write numbers from 1 to %d, separated by commas, for example 1,16,64",
			callers, maxBenchCallers)
	}
	for _, n := range list {
		f.plan = append(f.plan, benchLoad{Callers: n})
	}
	return nil
}

// numbers parses whole numbers from 1 to most, separated by commas.
func numbers(text string, most int) (out []int, bad bool) {
	for _, part := range strings.Split(text, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(part))
		if err != nil || n < 1 || n > most {
			return nil, true
		}
		out = append(out, n)
	}
	return out, false
}

// planRates parses --rate. With percentages, the plan starts with a step that measures the capacity.
func (f *benchFlags) planRates() error {
	for _, part := range strings.Split(f.rate, ",") {
		text, percent := strings.CutSuffix(strings.TrimSpace(part), "%")
		most := float64(maxBenchRate)
		if percent {
			most = maxBenchPercent
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
		if err != nil || !(n > 0 && n <= most) { // false for NaN, too
			return cli.Usage("--rate %q: write requests per second up to %d, or percentages of the capacity up to "+
				"%d%%, separated by commas: 200,400 or 50%%,100%%,1000%%",
				f.rate, maxBenchRate, maxBenchPercent)
		}
		if percent {
			f.relative = true
			f.plan = append(f.plan, benchLoad{Percent: n})
		} else {
			f.plan = append(f.plan, benchLoad{Rate: n})
		}
	}
	if f.relative {
		f.plan = append([]benchLoad{{Callers: capacityCallers}}, f.plan...)
	}
	return nil
}
