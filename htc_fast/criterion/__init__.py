"""What training minimises: losses of every stage, and which proposals they are taken over."""
