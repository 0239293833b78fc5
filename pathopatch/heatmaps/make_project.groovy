/*
 * Make a QuPath project of the slides that pathopatch predicted: patches with their measurements, positive regions and
 * reviewers' decisions. Written for QuPath 0.5 and 0.6.
 *
 * In QuPath: Automate > Script editor, then File > Open: this file, then Run > Run.
 * On a command line: QuPath script make_project.groovy
 *
 * Run it again after a new export: what came from pathopatch is replaced, what you drew or unlocked is kept.
 */
import com.google.gson.Gson
import groovy.transform.Field
import java.awt.image.BufferedImage
import java.util.zip.GZIPInputStream
import javafx.application.Platform
import qupath.lib.common.ColorTools
import qupath.lib.gui.QuPathGUI
import qupath.lib.images.ImageData
import qupath.lib.images.servers.ImageChannel
import qupath.lib.images.servers.ImageServerProvider
import qupath.lib.images.servers.TransformedServerBuilder
import qupath.lib.io.PathIO
import qupath.lib.projects.ProjectIO
import qupath.lib.projects.Projects
import qupath.lib.scripting.QP
import qupath.lib.scripting.ScriptAttributes

// Where the slides lie now, if they were moved or this is another computer: they are looked for by name, here and in
// the folders below. On a command line: --args FOLDER
@Field String SLIDES_FOLDER = ""

File folder = scriptFolder()
Map catalogue = new File(folder, "slides.json").withReader("UTF-8") { reader -> new Gson().fromJson(reader, Map.class) }
if (variable("args")) {
    SLIDES_FOLDER = variable("args")[0]
}
// Beside this folder and not in it: a new export replaces this folder as a whole.
File projectFolder = new File(folder.getParentFile(), folder.getName() + "-project")
def project = openProject(projectFolder)
int count = 0
List problems = []
for (slide in catalogue.slides) {
    try {
        addSlide(project, folder, slide)
        count += 1
        println "${slide.slide_id}: done"
    } catch (Exception error) {
        problems << "${slide.slide_id}: ${error.getMessage() ?: error}"
        println problems.last()
    }
}
project.syncChanges()
println "${count} of ${catalogue.slides.size()} slides are in ${new File(projectFolder, "project.qpproj")}"
problems.each { problem -> println "left out: " + problem }
if (QuPathGUI.getInstance() != null) {
    Platform.runLater { QuPathGUI.getInstance().setProject(project) }
}

/** Return the folder of this script. */
File scriptFolder() {
    def path = variable(ScriptAttributes.FILE_PATH)
    if (path == null) {
        throw new IllegalStateException("Open this script as a file: File > Open in the script editor. Then run it.")
    }
    return new File(path.toString()).getAbsoluteFile().getParentFile()
}

/** Return a variable that QuPath gives to its scripts; null if there is none. */
def variable(String name) {
    try {
        return getProperty(name)
    } catch (MissingPropertyException ignored) {
        return null
    }
}

/** Return the project in a folder, a new one if there is none. */
def openProject(File projectFolder) {
    def opened = QuPathGUI.getInstance()?.getProject()?.getPath()
    if (opened != null && opened.startsWith(projectFolder.toPath())) {
        throw new IllegalStateException("This project is open. Save and close it (File > Project), then run again.")
    }
    File file = new File(projectFolder, "project.qpproj")
    if (file.exists()) {
        return ProjectIO.loadProject(file, BufferedImage.class)
    }
    projectFolder.mkdirs()
    return Projects.createProject(projectFolder, BufferedImage.class)
}

/** Add a slide to the project, or bring the one that is there up to date. */
void addSlide(project, File folder, Map slide) {
    def entry = project.getImageList().find { other -> other.getImageName() == slide.slide_id }
    if (entry == null) {
        def server = openSlide(folder, slide)
        entry = project.addImage(server.getBuilder())
        server.close()
        entry.setImageName(slide.slide_id)
    }
    def imageData = entry.readImageData()
    try {
        if (!isSlide(imageData.getServer(), slide)) {
            throw new IllegalStateException("the image in the project has another size than the predicted slide")
        }
        if (!entry.hasImageData()) {  // else a person may have chosen otherwise
            describeImage(imageData, slide)
        }
        addObjects(imageData, folder, slide)
        slide.metadata.each { name, text -> putMetadata(entry, name, text) }
        entry.saveImageData(imageData)
    } finally {
        imageData.getServer().close()
    }
}

/** Return the image of a slide. Files of one channel each become the channels of one image. */
def openSlide(File folder, Map slide) {
    if (!slide.files || slide.files.any { file -> file.chosen }) {
        throw new IllegalStateException(slide.note)
    }
    List servers = slide.files.collect { file -> openImage(findFile(folder, file), slide) }
    boolean isSplit = slide.files.any { file -> file.plane != null }
    isSplit |= servers.size() > 1 && servers.any { server -> server.nChannels() > 1 }
    if (isSplit) {
        servers = [servers, slide.files].transpose().collect { server, file ->
            new TransformedServerBuilder(server).extractChannels([(file.plane ?: 0) as int] as int[]).build()
        }
    }
    if (servers.size() == 1) {
        return servers[0]
    }
    return new TransformedServerBuilder(servers[0]).concatChannels(servers as Collection).build()
}

/** Return where a file lies: as it was predicted, or as far from this folder, or in the folder of the slides. */
File findFile(File folder, Map file) {
    if (SLIDES_FOLDER) {
        File found = findByName(new File(SLIDES_FOLDER), file.name)
        if (found == null) {
            throw new IllegalStateException("no ${file.name} in ${SLIDES_FOLDER}")
        }
        return found
    }
    List places = [new File(file.absolute)]
    if (file.relative) {
        places << new File(folder, file.relative)
    }
    File found = places.find { place -> place.exists() }
    if (found == null) {
        throw new IllegalStateException("no file ${file.absolute}. Name the slides' folder in SLIDES_FOLDER at the top")
    }
    return found.getCanonicalFile()
}

/** Return the first file or folder of a name in a folder and below; null if there is none. */
File findByName(File folder, String name) {
    File here = new File(folder, name)
    if (here.exists()) {
        return here
    }
    for (child in (folder.listFiles() ?: []).sort()) {
        File found = child.isDirectory() ? findByName(child, name) : null
        if (found != null) {
            return found
        }
    }
    return null
}

/** Return the image of a file that has the slide's size: a file may hold several, such as a label. */
def openImage(File file, Map slide) {
    def support = ImageServerProvider.getPreferredUriImageSupport(BufferedImage.class, file.toURI().toString())
    for (builder in (support == null ? [] : support.getBuilders())) {
        def server = builder.build()
        if (server != null && isSlide(server, slide)) {
            return server
        }
        server?.close()
    }
    throw new IllegalStateException("QuPath cannot open ${file}, or it has another size than the predicted slide")
}

/** Return whether an image is the whole slide or its scanned part. */
boolean isSlide(server, Map slide) {
    List size = [server.getWidth(), server.getHeight()]
    return size == whole(slide.size) || size == whole(slide.bounds).drop(2)
}

/** Return numbers as whole ones: JSON has no others than decimal ones. */
List whole(List numbers) {
    return numbers.collect { number -> number as int }
}

/** Set the image's type, its scale where the file has none, and its channels. */
void describeImage(imageData, Map slide) {
    def server = imageData.getServer()
    imageData.setImageType(ImageData.ImageType.valueOf(slide.image_type))
    if (!server.getPixelCalibration().hasPixelSizeMicrons()) {
        QP.setPixelSizeMicrons(imageData, slide.mpp, slide.mpp, null)
    }
    if (!server.isRGB() && server.nChannels() == slide.channels.size()) {
        List channels = slide.channels.collect { channel ->
            def (red, green, blue) = whole(channel.color)
            ImageChannel.getInstance(channel.name, ColorTools.packRGB(red, green, blue))
        }
        QP.setChannels(imageData, channels as ImageChannel[])
    }
}

/** Put the slide's patches, regions and decisions into its image, in place of those of an earlier run. */
void addObjects(imageData, File folder, Map slide) {
    List objects = slide.objects.collectMany { name -> readObjects(new File(folder, name)) }
    def (x, y) = objectShift(imageData.getServer(), slide)
    if (x != 0 || y != 0) {
        objects.each { object -> object.setROI(object.getROI().translate(x, y)) }
    }
    def hierarchy = imageData.getHierarchy()
    // Ids from pathopatch have version 5, those that QuPath makes have version 4. Whoever unlocked an object owns it.
    Collection old = hierarchy.getAllObjects(false).findAll { object -> object.isLocked() && object.getID().version() == 5 }
    hierarchy.removeObjects(old, true)
    Set kept = hierarchy.getAllObjects(false).collect { object -> object.getID() } as Set
    hierarchy.addObjects(objects.findAll { object -> !kept.contains(object.getID()) })
}

/** Return by how many pixels (x, y) to move objects: the files count from the corner of the scanned part. */
List objectShift(server, Map slide) {
    List bounds = whole(slide.bounds)
    boolean isScannedPart = [server.getWidth(), server.getHeight()] == bounds.drop(2)
    return isScannedPart ? [0, 0] : bounds.take(2)
}

/** Return the objects of a compressed GeoJSON file; older versions of QuPath do not read these themselves. */
List readObjects(File file) {
    return new GZIPInputStream(new FileInputStream(file)).withCloseable { stream ->
        PathIO.readObjectsFromGeoJSON(stream)
    }
}

/** Set a value that QuPath shows beside the image's name, and sorts images by. */
void putMetadata(entry, String name, String text) {
    if (entry.metaClass.respondsTo(entry, "getMetadata")) {
        entry.getMetadata().put(name, text)  // from version 0.6 on
    } else {
        entry.putMetadataValue(name, text)
    }
}
