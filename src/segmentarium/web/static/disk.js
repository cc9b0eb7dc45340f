// Opened from disk, the page gets no further than this: browsers load modules and networks from a server alone.
if (location.protocol === "file:") {
  document.getElementById("status").className = "error";
  const command = document.createElement("code"); // apart from the sentence, and taken whole by one click
  command.textContent = "python -m http.server --bind 127.0.0.1";
  document.getElementById("status").replaceChildren(
    "This page has to come from a web server. In its folder run ", command,
    " and open http://127.0.0.1:8000/ – nothing is sent anywhere, the server only hands out these files.",
  );
  document.getElementById("controls").hidden = document.getElementById("drop").hidden = true;
}
