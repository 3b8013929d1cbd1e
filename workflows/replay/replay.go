// Package replay holds recorded histories of Portcullis' workflows, and replays
// them: a change that running rollouts would not survive fails the test.
//
// A behaviour change in workflow code needs workflow.GetVersion with a change ID
// that says what and when, such as "restore-in-parallel-20261124", and a new
// recording beside the old ones. Old recordings stay until no rollout of that
// age can be running any more. To record all scenarios, or one, on a server of its own:
//
//	make record
//	make record SCENARIO=migrate-pass
//
// And against any Temporal server:
//
//	go test ./workflows/replay -run TestRecord -record 127.0.0.1:7233
package replay
