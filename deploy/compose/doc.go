// Package compose holds docker-compose.yml to what it promises. It has tests alone.
package compose
