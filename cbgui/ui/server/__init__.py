"""What the web server does besides the pages: visitors and downloads."""
