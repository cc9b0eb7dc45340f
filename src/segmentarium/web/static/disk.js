// Opened from disk, the page gets no further than this: browsers load modules and networks from a server alone.
if (location.protocol === "file:") {
  document.getElementById("status").className = "error";
  document.getElementById("status").textContent =
    "This page has to come from a web server. In its folder run  python -m http.server --bind 127.0.0.1  " +
    "and open http://127.0.0.1:8000/ – nothing is sent anywhere, the server only hands out these files.";
  document.getElementById("controls").hidden = document.getElementById("drop").hidden = true;
}
