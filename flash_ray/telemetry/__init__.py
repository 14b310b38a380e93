"""What runs, teachers and studies measure, and the dashboards and alerts that show it."""
