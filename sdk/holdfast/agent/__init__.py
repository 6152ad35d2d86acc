"""What agent authors import: an agent is an async function whose recorded steps never run twice."""
