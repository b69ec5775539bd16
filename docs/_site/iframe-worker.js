// Web workers for pages that are opened from the file system, where browsers refuse `new Worker`. The script of the
// worker runs in an invisible frame instead. The theme uses a worker for the search.
(() => {
  if (location.protocol !== "file:") return

  class IFrameWorker extends EventTarget {
    #loaded

    constructor(address) {
      super()
      const frame = document.createElement("iframe")
      frame.hidden = true
      document.body.append(frame)
      const inner = frame.contentWindow
      inner.postMessage = (data) =>
        this.dispatchEvent(new MessageEvent("message", { data: window.structuredClone(data) }))
      const script = inner.document.createElement("script")
      script.src = new URL(address, location.href)
      this.#loaded = new Promise((resolve, reject) => {
        script.onload = () => resolve(inner)
        script.onerror = () => reject(new Error(`${script.src} cannot be loaded`))
      })
      inner.document.body.append(script)
    }

    async postMessage(data) {
      const inner = await this.#loaded
      inner.dispatchEvent(new inner.MessageEvent("message", { data: inner.structuredClone(data) }))
    }
  }

  window.Worker = window.IFrameWorker = IFrameWorker
})()
