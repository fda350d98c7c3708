// What plays the clip. The browser's own controls would lie over the faces.

import { byId, clock } from "./dom.js";

/** Ties the buttons below a video to it; `seek(time)` is called when the slider is moved. */
export function controls(video, seek) {
  const [play, sound, slider] = [byId("play"), byId("sound"), byId("position")];
  const toggle = () => (video.paused ? video.play() : video.pause());
  play.addEventListener("click", toggle);
  video.addEventListener("click", toggle);
  sound.addEventListener("click", () => (video.muted = !video.muted));
  slider.addEventListener("input", () => seek(Number(slider.value)));

  const show = () => {
    play.textContent = video.paused ? "Play" : "Pause";
    sound.textContent = video.muted ? "Sound on" : "Sound off";
    const end = Number.isFinite(video.duration) ? video.duration : 0;
    slider.max = end;
    slider.value = video.currentTime;
    const now = clock(video.currentTime);
    slider.setAttribute("aria-valuetext", now);
    byId("now").textContent = `${now} of ${clock(end)}`;
  };
  const events = ["play", "pause", "ended", "timeupdate", "seeking", "volumechange", "durationchange"];
  for (const event of events) video.addEventListener(event, show);
}
