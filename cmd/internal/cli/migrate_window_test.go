package cli

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"portcullis.dev/portcullis/probes/migration"
)

func TestParseWindow(t *testing.T) {
	week := strings.Fields
	for text, want := range map[string]migration.Window{
		"mon-fri 22:00-05:00 Europe/Berlin": {Days: week("mon tue wed thu fri"), From: "22:00", Until: "05:00", Zone: "Europe/Berlin"},
		"22:00-05:00":                       {From: "22:00", Until: "05:00"},
		"22:00-24:00":                       {From: "22:00", Until: "24:00"},
		" SAT,Sun  01:30-02:00  UTC ":       {Days: week("sat sun"), From: "01:30", Until: "02:00", Zone: "UTC"},
		"fri-mon 00:00-06:00":               {Days: week("mon fri sat sun"), From: "00:00", Until: "06:00"},
		"sun,mon,sun 00:00-06:00":           {Days: week("mon sun"), From: "00:00", Until: "06:00"},
		"wed-wed 00:00-06:00":               {Days: week("wed"), From: "00:00", Until: "06:00"},
	} {
		got, err := parseWindow(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
		again, err := parseWindow(windowText(got))
		require.NoError(t, err, text)
		require.Equal(t, got, again, text)
	}
	for text, want := range map[string]string{
		"":                                "write it like",
		"mon":                             "write it like",
		"mon tue 22:00-05:00":             "write it like",
		"mon 22:00-05:00 UTC more":        "write it like",
		"weekdays 22:00-05:00":            `"weekdays" is no day`,
		"mon- 22:00-05:00":                `"mon-" is no day`,
		"mon, 22:00-05:00":                `"" is no day`,
		"mon-tue-wed 22:00-05:00":         `"mon-tue-wed" is no day`,
		"22:00":                           "no stretch of a day",
		"22:00-":                          "no stretch of a day",
		"9:00-17:00":                      "no stretch of a day",
		"22:00-25:00":                     "no stretch of a day",
		"24:00-05:00":                     "no stretch of a day",
		"22:00-05:00-06:00":               "no stretch of a day",
		"05:00-05:00":                     "begins and ends at 05:00",
		"22:00-05:00 Local":               "no time zone",
		"22:00-05:00 Europe/Nowhere":      "no time zone",
		"22:00-05:00 ../../etc/localtime": "no time zone",
	} {
		_, err := parseWindow(text)
		require.ErrorContains(t, err, want, text)
	}
}

func FuzzParseWindow(f *testing.F) {
	for _, seed := range []string{"mon-fri 22:00-05:00 Europe/Berlin", "22:00-24:00", "sun,fri-mon 00:00-06:00 UTC", "a:b", "- :- -"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		w, err := parseWindow(text)
		if err != nil {
			require.NotContains(t, err.Error(), "\n", text)
			return
		}
		again, err := parseWindow(windowText(w))
		require.NoError(t, err)
		require.Equal(t, w, again)
	})
}
