import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;

/** An app on the JDK's own HttpClient. */
class OnHttpClient {
  public static void main(String[] paths) throws Exception {
    HttpClient client = HttpClient.newHttpClient();
    for (String path : paths) {
      var request = HttpRequest.newBuilder(URI.create("https://api.mobula.io" + path))
          .header("Authorization", System.getenv("MOBULA_API_KEY"))
          .build();
      var answer = client.send(request, BodyHandlers.ofString());
      System.out.println(answer.body() + " " + answer.statusCode());
    }
  }
}
