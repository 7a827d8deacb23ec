"""From a spec to a job at the site: read, render, write down, submit."""
