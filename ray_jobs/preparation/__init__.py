"""The passes over a log that `ray_jobs.prepare` puts in order."""
